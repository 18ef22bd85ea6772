"""The live ISO, booted and asked."""
