"""The demonstration: the main job, on the places of GeoNames."""
