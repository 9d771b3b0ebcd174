"""The benchmark itself: that it measures what it says, not how fast anything is."""
