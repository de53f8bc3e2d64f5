"""The chaos program: writers write behind while everything around them is killed, frozen and restarted at random."""
