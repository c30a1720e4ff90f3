"""The hospital's daemon: SuperNode, runner and forwarder, kept running by `wardround site serve`."""
