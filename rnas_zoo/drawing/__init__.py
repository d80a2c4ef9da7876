"""Pictures, as SVG or PNG: architectures, curves, adversarial pairs, searches, latencies.

The same input gives the same bytes. Files appear whole or not at all. matplotlib is imported when a picture is drawn.
"""
