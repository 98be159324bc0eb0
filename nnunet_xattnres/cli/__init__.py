"""The command `xattnres`: one file per subcommand, imported when it is called."""
