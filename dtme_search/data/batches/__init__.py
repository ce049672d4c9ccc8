"""From samples to batches on the device. Nothing here knows the name of a data set."""
