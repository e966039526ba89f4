"""The data set: what belongs to it, how a photo is read, cut and changed."""
