"""Guests to graft and the machines that boot them."""
