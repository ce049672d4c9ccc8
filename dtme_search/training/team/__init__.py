"""One run on several devices: a leader, which is the run, and followers, which compute parts of its batches.

The leader is the only one that decides anything. Before a step it sends its weights, everybody takes the
gradients of an equal share of the parts of the batch (``train.accumulate``), and the leader gets their sum.
So optimiser, growth, schedules, trunks, evaluations and checkpoints know nothing of the others, and a run
that grows, forks or resumes needs no agreement. ``DistributedDataParallel`` does not fit here: it hooks into
one backward pass, but methods that combine tasks take several, stream by stream, and the network grows in
place. A broadcast and a reduction move as many bytes as its all-reduce of gradients.

Batch norm sees one part at a time, as with accumulation on one device, and its running statistics are those
of the parts in their order. Losses divide by the valid pixels of the whole batch, which every device makes
for itself from (seed, step). So a run on N devices gives the numbers of one device up to rounding.
"""
