"""Physics in closed form: the energy balance of the globe, forcings from emissions, and budgets."""
