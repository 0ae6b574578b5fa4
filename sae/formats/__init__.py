"""The four ways in which the field stores a sparse autoencoder, read and written exactly."""
