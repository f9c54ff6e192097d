from organisms.discover.make import main

main()
