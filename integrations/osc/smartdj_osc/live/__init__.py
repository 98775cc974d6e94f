"""What sounds on stage: tempo, prepared slots, the block renderer, the rolling recording, and the audio devices."""
