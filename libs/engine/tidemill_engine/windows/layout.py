"""Where things stand in the flat arrays that the kernels read and write: names for offsets, nothing else.

Kernels get few arrays: handing a compiled function a dozen of them costs more than what it does.

Code (a plan laid out, see `program`): a header, then records of grids, windows, operations, columns and features.
A row (one key): latest event time, events applied, the last batch that touched it, then for each grid the newest pane
(-1 none), the index of the pane that holds the evaluation time, the end of that pane and when the next pane leaves a
window; for each session window the newest pane, whether the session has ended, nothing, and when a pane leaves or the
session ends; then the all-time body, then one body for each window.
The pool: first word never used, first free record of each grid (-1 none), then pane records in linked lists.
An event: time, hash of its id, then for each column its value and exact limbs.
"""

from typing import Final

import numpy as np

# code
ROW_WORDS: Final = 0
LIFETIME: Final = 1  # NEVER when keys do not die
STEP: Final = 2
BLANK: Final = 3  # an empty row
GRID: Final = 4  # the grids, then the all-time body as one more
GRID_END: Final = 5
COLUMN: Final = 6
COLUMN_END: Final = 7
COUNTS: Final = 8  # features, by what reading them takes
COUNTS_END: Final = 9
MOMENTS: Final = 10
MOMENTS_END: Final = 11
PICKS: Final = 12
PICKS_END: Final = 13
OTHERS: Final = 14
OTHERS_END: Final = 15
RATIOS: Final = 16
RATIOS_END: Final = 17
FEATURES: Final = 18
SESSION: Final = 19  # session windows, each with a grid of its own
SESSION_END: Final = 20
HEADER: Final = 21

# a grid, in the code
PANE: Final = 0  # microseconds
KEPT: Final = 1  # panes of its longest window
RECORD: Final = 2  # words of a pane's record
WINDOW: Final = 3
WINDOW_END: Final = 4
OP: Final = 5
OP_END: Final = 6
EMPTY: Final = 7  # an empty body, in the code
BODY_WORDS: Final = 8
SLOT: Final = 9  # in a row; for the all-time body where it stands, -1 none
FREE: Final = 10  # in the pool
GRID_WIDTH: Final = 11

# a window, in the code
PANES: Final = 0
AT: Final = 1  # its body, in a row
WINDOW_WIDTH: Final = 2

# a session window goes on
GAP: Final = 2  # microseconds
FROM: Final = 3  # time of the first event in a pane's body
UNTIL: Final = 4  # time of the last one

# an operation, in the code: a field's part of a body; offsets inside the body, 0 for absent
CELL: Final = 0  # in the event
MASK: Final = 1
COUNT: Final = 2
SUM: Final = 3
SQUARE: Final = 4
MIN: Final = 5
MAX: Final = 6
FIRST: Final = 7
LAST: Final = 8
LAG: Final = 9  # the newest values, newest first
LAG_N: Final = 10
REGISTERS: Final = 11
TALLY: Final = 12  # events by category
TALLY_N: Final = 13
OP_WIDTH: Final = 14

# bits of an operation's mask
HAS_SUM: Final = 1
HAS_SQUARE: Final = 2
HAS_MIN: Final = 4
HAS_MAX: Final = 8
HAS_FIRST: Final = 16
HAS_LAST: Final = 32
HAS_LAG: Final = 64
HAS_REGISTERS: Final = 128
HAS_TALLY: Final = 256
RARE: Final = HAS_FIRST | HAS_LAST | HAS_LAG | HAS_REGISTERS | HAS_TALLY
KEPT_WHOLE: Final = HAS_LAG | HAS_REGISTERS
EXTREMES: Final = HAS_MIN | HAS_MAX | HAS_FIRST | HAS_LAST | KEPT_WHOLE  # what cannot be subtracted

# a column, in the code
NEEDS: Final = 0  # 0 no sums, 1 sum, 2 sum and squares
SCALE: Final = 1  # bits of the float 2 ** bits
COLUMN_WIDTH: Final = 2

# features, in the code: places in a row, then the place in the vector
COUNTS_WIDTH: Final = 2  # count, place
MOMENTS_WIDTH: Final = 5  # count, sum, quantum, place of the sum, place of the mean (-1 none)
PICKS_WIDTH: Final = 3  # count, value, place
KIND: Final = 0
N: Final = 1
SOURCE: Final = 2
SECOND: Final = 3
QUANTUM: Final = 4  # bits of the float 2 ** -bits
PLACE: Final = 5
WEIGHTS: Final = 6  # bits of the floats 2 ** (-panes of age * pane / half-life)
PART: Final = 7  # where the field's count stands in a pane's body
OTHERS_WIDTH: Final = 8
RATIOS_WIDTH: Final = 3  # place of the dividend, of the divisor, then its own
KIND_VAR: Final = 0
KIND_STD: Final = 1
KIND_AGE: Final = 2
KIND_LAG: Final = 3
KIND_DISTINCT: Final = 4
KIND_TOP: Final = 5
KIND_EWMA: Final = 6

# a row
LATEST: Final = 0
APPLIED: Final = 1
SEEN: Final = 2
GRIDS: Final = 3
HEAD: Final = 0
CURRENT: Final = 1
END: Final = 2
DUE: Final = 3
PER_GRID: Final = 4
ENDED: Final = 1  # of a session: whether it had ended when last looked at

# a record of the pool
INDEX: Final = 0
NEXT: Final = 1
BODY: Final = 2

# the pool
TOP: Final = 0

# an event
TIME: Final = 0
MARK: Final = 1
CELLS: Final = 2
VALUE: Final = 0
LIMBS: Final = 1  # sum low, high, square low, middle, high
CELL_WIDTH: Final = 6

NEVER: Final = int(np.iinfo(np.int64).max)
NOTHING_YET: Final = -1
