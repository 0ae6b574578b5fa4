"""Autoencoders on disk, in four projects' layouts, read and written exactly."""
