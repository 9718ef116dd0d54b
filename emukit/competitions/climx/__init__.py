"""The ClimX competition: annual indices of extremes of daily NorESM2-MM fields, scored region by region."""
