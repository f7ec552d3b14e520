-- What a mail server said may name a recipient: of what was kept of it in the clear, only its code stays.
UPDATE outbox SET error = 'answered ' || substring(error FROM ' answered ([2-5][0-9]{2}) ') WHERE error IS NOT NULL;
