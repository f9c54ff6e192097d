from organisms.real.discover.make import main

main()
