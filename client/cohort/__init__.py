"""The cohort: who is who, whose images are cached, who is held out, who withdrew. Only this room reads patient ids."""
