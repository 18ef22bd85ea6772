"""Recipes: facts and options in, a plan out; pure."""
