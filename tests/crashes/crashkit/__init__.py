"""Crashes that can be had again: what a disk holds at any moment, children that die where they are told to, a judge."""
