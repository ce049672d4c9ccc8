"""From samples to batches on the device. Nothing here depends on a particular data set."""
