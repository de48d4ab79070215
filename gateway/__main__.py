import sys
def main()->None:
    sys.exit("reelgate: not built yet")
