"""Interactions between the AV and other agents in windows: found, measured, and written as directives."""
