"""`strata inspect-table`: the record class of a table that is there already, as Python source."""
