from refinenet_edge.cli import main

main()
