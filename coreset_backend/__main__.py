from coreset_backend.cli.main import main

main()
