"""`python -m vtx_keras.cli`: the same as `vtx`."""

from vtx_keras.cli import main

if __name__ == "__main__":
    main()
