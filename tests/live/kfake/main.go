// A Kafka broker in one process, for tests of what librdkafka's mock cluster has not: transactions,
// TLS, passwords, topics that have to be made, data that survives its death. Reads from standard
// input until that is closed.
package main

import (
	"crypto/tls"
	"flag"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/twmb/franz-go/pkg/kfake"
)

func main() {
	port := flag.Int("port", 9092, "on 127.0.0.1")
	data := flag.String("data", "", "folder")
	user := flag.String("user", "", "METHOD:NAME:PASSWORD")
	cert := flag.String("cert", "", "CERTIFICATE:KEY")
	auto := flag.Bool("auto", true, "make topics that are missing")
	largest := flag.String("largest", "", "message.max.bytes")
	flag.Parse()

	options := []kfake.Opt{kfake.NumBrokers(1), kfake.Ports(*port), kfake.DefaultNumPartitions(1)}
	if *data != "" {
		options = append(options, kfake.DataDir(*data))
	}
	if *auto {
		options = append(options, kfake.AllowAutoTopicCreation())
	}
	if *largest != "" {
		options = append(options, kfake.BrokerConfigs(map[string]string{"message.max.bytes": *largest}))
	}
	if p := strings.SplitN(*user, ":", 3); len(p) == 3 {
		options = append(options, kfake.EnableSASL(), kfake.Superuser(p[0], p[1], p[2]))
	}
	if p := strings.SplitN(*cert, ":", 2); len(p) == 2 {
		pair, err := tls.LoadX509KeyPair(p[0], p[1])
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		options = append(options, kfake.TLS(&tls.Config{Certificates: []tls.Certificate{pair}}))
	}
	cluster, err := kfake.NewCluster(options...)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Println(strings.Join(cluster.ListenAddrs(), ","))
	io.Copy(io.Discard, os.Stdin)
	cluster.Close()
}
