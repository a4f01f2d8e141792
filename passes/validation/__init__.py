"""Translation validation: what each pass must keep, checked on the module before and after it."""
