"""Mathematics of the flow, for drawing and for training; knows a velocity function, never a model class."""
