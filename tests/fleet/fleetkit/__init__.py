"""What the tests of a fleet need: processes, a proxy that does harm, and storms of faults."""
