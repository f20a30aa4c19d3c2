"""The vocabulary and the rules: standard library only, no I/O, no clock.

Reading order: `model` (what flows), `errors` (what goes wrong), `naming`, `manifest`, `calendar`,
`retry` (decisions as values), `secret`, `streams`.
"""
