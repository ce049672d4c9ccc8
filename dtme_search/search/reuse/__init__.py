"""Work that trials share: trunks, conflict reports, equal work."""
