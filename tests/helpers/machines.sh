#!/bin/bash
# Runs a command on the first of two "machines", h1 and h2, which are network namespaces with names of their own, joined by a
# link of RATE (such as 100mbit):
#
#   unshare --user --map-root-user --net --mount --uts --pid --fork --kill-child machines.sh FOLDER RATE COMMAND…
#
# FOLDER/ssh is the command that launchers take for ssh. FOLDER/cut pulls h2's cable. Nothing outside these namespaces
# changes, and they end with the command.
set -e
folder=$1 rate=$2
shift 2
mount -t proc proc /proc
mount -t tmpfs tmpfs /run
mkdir /run/netns
echo "127.0.0.1 localhost" > "$folder/hosts"
ip link add bridge type bridge
ip link set bridge up
for i in 1 2; do
  ip netns add h$i
  ip link add v$i type veth peer name eth0 netns h$i
  ip link set v$i master bridge up
  ip -n h$i addr add 10.77.0.$i/24 dev eth0
  ip -n h$i link set eth0 up
  ip -n h$i link set lo up
  ip netns exec h$i tc qdisc add dev eth0 root tbf rate "$rate" burst 256kb latency 50ms
  echo "10.77.0.$i h$i" >> "$folder/hosts"
done
mount --bind "$folder/hosts" /etc/hosts
cat > "$folder/on" <<'X'
#!/bin/bash
host=$1
shift
exec ip netns exec "$host" unshare --uts bash -c 'hostname "$0" && exec "$@"' "$host" "$@"
X
cat > "$folder/ssh" <<X
#!/bin/bash
while [[ \$1 == -* ]]; do shift; done
host=\$1
shift
exec "$folder/on" "\$host" sh -c "\$*"
X
chmod +x "$folder/on" "$folder/ssh"
(until [ -e "$folder/cut" ]; do sleep 0.1; done; ip -n h2 link set eth0 down) &
"$folder/on" h1 "$@"
