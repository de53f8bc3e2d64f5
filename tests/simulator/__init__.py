"""A simulator of processes, servers, links and time, through which the shipped code goes, one event after another."""
