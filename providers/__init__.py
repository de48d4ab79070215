"""The register of adapters: one visible line each; out-of-tree ones join by the entry point group `reelgate.providers`.

Held here: which adapters exist. Not held here: which are used, and with what key (the gateway's settings).
"""
