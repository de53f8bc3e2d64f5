"""The chaos program: writers write behind while everything around them is killed, frozen,
restarted and sown with garbage at random."""
