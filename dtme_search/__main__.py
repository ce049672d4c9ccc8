"""``python -m dtme_search`` is ``dtme-search``."""

from dtme_search.cli import main

if __name__ == "__main__":
    main()
