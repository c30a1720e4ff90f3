"""The cohort: patients, cached images, held-out patients, withdrawals. The only room that reads patient ids."""
