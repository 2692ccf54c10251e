# Talks to an echo server with bash's own /dev/tcp and two children that share the connection:
# bash_client.sh PORT FILE BYTES   writes what comes back to standard output
set -e
exec 3<>"/dev/tcp/127.0.0.1/$1"
head -c "$3" <&3 &
sent=0
cat "$2" >&3 || sent=$?
wait $! # even when nothing could be sent: the reader must not outlive this
exit "$sent"
