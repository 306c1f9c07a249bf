"""One file a subcommand and its public function: each gathers the parts and calls them."""
