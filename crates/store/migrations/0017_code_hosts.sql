-- Host at which the sign-in began, and the only one at which its code is valid. Codes last a minute: those of before fit nowhere.
ALTER TABLE app_codes ADD COLUMN host TEXT NOT NULL DEFAULT '';
