"""What runs all the time at a hospital: SuperNode, runner and forwarder, kept up by `wardround site serve`."""
