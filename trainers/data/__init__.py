"""The data set: the manifest, and how a photo is read, cropped and augmented."""
