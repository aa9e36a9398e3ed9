"""What a store needs from time to time: counting, checking, mending, and representing it anew in less."""
