// Asks a ClickHouse through clickhouse-go, Grafana's driver, and prints what it says.
//
// Takes a DSN, reads statements from its input as a JSON list, and prints for each its rows, as texts, or its error.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"reflect"

	"github.com/ClickHouse/clickhouse-go/v2"
)

func rows(conn clickhouse.Conn, sql string) any {
	found, err := conn.Query(context.Background(), sql)
	if err != nil {
		return err.Error()
	}
	defer found.Close()
	said := [][]string{}
	for found.Next() {
		types := found.ColumnTypes()
		values := make([]any, len(types))
		for i, each := range types {
			values[i] = reflect.New(each.ScanType()).Interface()
		}
		if err := found.Scan(values...); err != nil {
			return err.Error()
		}
		row := make([]string, len(values))
		for i, value := range values {
			row[i] = text(reflect.ValueOf(value).Elem())
		}
		said = append(said, row)
	}
	if err := found.Err(); err != nil {
		return err.Error()
	}
	return said
}

func text(value reflect.Value) string {
	if value.Kind() == reflect.Pointer {
		if value.IsNil() {
			return "NULL"
		}
		value = value.Elem()
	}
	return fmt.Sprint(value.Interface())
}

func main() {
	options, err := clickhouse.ParseDSN(os.Args[1])
	if err != nil {
		panic(err)
	}
	conn, err := clickhouse.Open(options)
	if err != nil {
		panic(err)
	}
	var statements []string
	if err := json.NewDecoder(os.Stdin).Decode(&statements); err != nil {
		panic(err)
	}
	said := []any{}
	for _, sql := range statements {
		said = append(said, rows(conn, sql))
	}
	if err := json.NewEncoder(os.Stdout).Encode(said); err != nil {
		panic(err)
	}
}
