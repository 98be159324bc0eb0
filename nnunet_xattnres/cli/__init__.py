"""The command `xattnres`: one module per subcommand, which is imported only when the subcommand is called."""
