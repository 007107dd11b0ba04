from coreset_backend.cli import main

main()
