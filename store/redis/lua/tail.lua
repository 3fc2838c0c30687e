-- Returns epoch and number of the newest entry, or nothing.
if not open(false) then return {} end
save()
return {epoch, int(last)}
