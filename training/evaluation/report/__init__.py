"""Pictures, tables and pages that show how a build went."""
