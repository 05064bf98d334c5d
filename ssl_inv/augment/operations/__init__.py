"""The operations that a policy is made of. They draw parameters; what these do to pixels stands in the modules around them."""
