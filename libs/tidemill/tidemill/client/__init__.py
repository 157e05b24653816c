"""The typed client of the services, synchronous and asynchronous."""
