"""`python -m tidemill`, for where the script is not on the path."""

from tidemill.cli import main

main()
